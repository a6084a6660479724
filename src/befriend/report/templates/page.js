const read = (id) => JSON.parse(document.getElementById(id).textContent);
const specs = read("specs"), themes = read("themes"), root = document.documentElement;
const preferred = matchMedia("(prefers-color-scheme: dark)");
const theme = () => root.dataset.theme || (preferred.matches ? "dark" : "light");

async function draw() {
  const current = theme();
  for (const chart of document.querySelectorAll(".chart")) {
    await vegaEmbed(chart, specs[chart.dataset.name], {
      mode: "vega-lite", renderer: "svg", config: themes[current], tooltip: { theme: current },
      actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: chart.dataset.name,
    });
    if (current !== theme()) return;
  }
  root.dataset.drawn = current;
}

function storeTheme(value) {
  try { localStorage.setItem("befriend-theme", value); } catch { /* browsers may forbid storage for local files */ }
}
try { root.dataset.theme = localStorage.getItem("befriend-theme") || ""; } catch { /* as above */ }

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  storeTheme(root.dataset.theme);
  draw();
});
preferred.addEventListener("change", draw);

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll(".opening details")) part.open = true;
});

function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") === "descending" || (head.getAttribute("aria-sort") === "none" && !head.classList.contains("number"));
  const key = (row) => { const cell = row.cells[column]; return cell.dataset.value ?? cell.textContent.trim(); };
  const number = head.classList.contains("number");
  const order = (a, b) => number ? Number(key(a) || -Infinity) - Number(key(b) || -Infinity) : key(a).localeCompare(key(b));
  const rows = [...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
  for (const header of table.querySelectorAll("th[aria-sort]")) header.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}
for (const head of document.querySelectorAll("th[aria-sort]")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(head); });
}

function showLatency(latency) {
  const body = document.getElementById("latency").tBodies[0];
  for (const [model, milliseconds] of Object.entries(latency)) {
    const row = body.insertRow();
    row.insertCell().textContent = model;
    for (const name of ["p50", "p95", "p99"]) {
      const cell = row.insertCell();
      cell.className = "number";
      cell.textContent = `${milliseconds[name].toFixed(1)} ms`;
    }
  }
  document.getElementById("latency-missing").hidden = true;
}
if (window.befriend) showLatency(window.befriend.latency);
draw();
