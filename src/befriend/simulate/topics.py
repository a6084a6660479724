"""Topics of the texts of simulated users: names, typical phrases, and sentence templates.

No phrase and no template contains the name of a topic, so a text names a topic only through a placeholder. Phrases
have one to three words, names one or two, and every template gives a text of 6 to 16 words.
"""

from __future__ import annotations

from typing import Final

_WORDS = """
hiking: trail boots, ridge walks, summit views, mountain huts, muddy paths, switchbacks, waymarks, blisters;
climbing: belay loops, chalk dust, bouldering problems, crimps, a worn harness, granite slabs, overhangs, rope burns;
running: marathon plans, interval sessions, tempo splits, half marathons, sore calves, parkruns, pace charts, carbon
  shoes;
cycling: gravel roads, clipless pedals, steep hairpins, a carbon frame, chain grease, spare tubes, headwinds, hill
  repeats;
swimming: pool lanes, tumble turns, open water, foggy goggles, front crawl, kick drills, cold lakes, breaststroke;
yoga: sun salutations, downward dog, a rolled mat, slow stretches, warrior pose, hip openers, breath work, headstands;
chess: queen sacrifices, endgames, the Sicilian defence, blunders, rapid ratings, knight forks, pinned bishops,
  gambits;
board games: dice towers, meeples, worker placement, long rulebooks, deck building, victory points, hex maps, co-op
  campaigns;
photography: golden hour, prime lenses, long exposures, a tripod, darkroom prints, film rolls, shutter speeds, street
  portraits;
painting: oil on canvas, watercolour washes, palette knives, linseed oil, still lifes, charcoal sketches, wet brushes,
  cobalt blue;
pottery: wet clay, the kick wheel, celadon glaze, kiln firings, wobbly bowls, stoneware mugs, slip casting, raku;
knitting: merino yarn, cable stitches, wool socks, dropped stitches, circular needles, lace shawls, raglan sleeves,
  sock yarn;
gardening: raised beds, compost heaps, tomato seedlings, slug traps, pruning shears, perennials, leaf mould, seed
  catalogues;
cooking: cast iron pans, slow braises, mise en place, pan sauces, sharp knives, homemade stock, curry paste, fresh
  herbs;
baking: sourdough starters, rye loaves, puff pastry, proving baskets, cinnamon rolls, crumb shots, macarons, butter
  croissants;
coffee: espresso shots, pour overs, burr grinders, light roasts, latte foam, cold brew, arabica beans, crema;
tea: oolong leaves, gongfu sessions, matcha whisks, pu-erh cakes, a clay kettle, second flush Darjeeling, jasmine
  pearls, steeping times;
craft beer: hazy IPAs, dry hops, imperial stouts, taproom flights, wild yeast, barrel ageing, brew kettles, saisons;
wine: Riesling slopes, oak barrels, natural reds, old vines, cellar tastings, tannins, Burgundy vintages, decanters;
astronomy: Saturn's rings, dark skies, a Dobsonian telescope, meteor showers, star charts, faint nebulae, lunar
  craters, deep sky objects;
birdwatching: shy warblers, binoculars, spring migration, marsh hides, kingfishers, life lists, owl calls, rare
  waders;
fishing: fly rods, trout streams, early bites, hand tied lures, carp ponds, waxed lines, pike season, landing nets;
camping: tent pegs, campfire stories, sleeping bags, gas stoves, starlit nights, hammocks, a leaky tent, dry firewood;
sailing: spinnakers, jib sheets, regatta starts, knots and cleats, a small dinghy, steady trade winds, tidal charts,
  mooring lines;
surfing: point breaks, a longboard, swell forecasts, sea wax, dawn patrol, reef cuts, wetsuits, barrel rides;
skiing: fresh powder, carved turns, black runs, chairlifts, backcountry tours, mogul fields, avalanche beacons, après
  in boots;
football: penalty shootouts, Sunday league, offside traps, derby days, goal kicks, counter pressing, away fans, corner
  routines;
basketball: three pointers, pickup games, crossovers, free throws, fast breaks, alley oops, rim rattlers, zone
  defence;
tennis: clay courts, second serves, topspin forehands, tie breaks, drop shots, slice backhands, ball machines,
  baseline rallies;
martial arts: sparring rounds, judo throws, a black belt, kata practice, roundhouse kicks, armbars, tatami mats, muay
  thai pads;
dancing: salsa nights, swing steps, tango embraces, ballroom shoes, milongas, lindy hop, waltz turns, bachata socials;
singing: choir rehearsals, alto lines, warm up scales, harmonies, karaoke nights, high notes, madrigals, a cappella;
piano: Chopin nocturnes, left hand octaves, pedal markings, sight reading, finger exercises, a baby grand, ivory keys,
  four hands duets;
guitar: barre chords, fuzz pedals, nylon strings, fingerpicking, tube amps, blues licks, open tunings, a battered
  Telecaster;
jazz: bebop solos, walking bass, brushed drums, Coltrane records, late jam sessions, modal tunes, muted trumpets,
  smoky clubs;
classical music: string quartets, Mahler symphonies, opera tickets, chamber concerts, Bach cantatas, orchestra seats,
  period instruments, baroque scores;
electronic music: modular synths, acid basslines, techno sets, drum machines, ambient drones, warehouse raves, sample
  packs, long DJ mixes;
cinema: film noir, long takes, festival premieres, subtitled dramas, Kubrick retrospectives, matinees, closing
  credits, director's cuts;
theatre: improv nights, stage fright, Beckett plays, dress rehearsals, fringe shows, monologues, curtain calls, front
  row seats;
novels: thick paperbacks, unreliable narrators, dog eared pages, book club picks, Russian classics, plot twists, first
  editions, family sagas;
poetry: open mic nights, sonnets, free verse, haiku notebooks, slant rhymes, spoken word, slim chapbooks, line breaks;
history: medieval charters, Roman roads, dusty archives, castle ruins, trench diaries, Bronze Age hoards, old empires,
  oral testimonies;
philosophy: Stoic letters, thought experiments, Kant seminars, trolley problems, free will debates, dialectics,
  existential dread, Socratic questions;
languages: verb tables, tandem partners, flashcards, irregular plurals, Japanese kanji, tricky accents, loan words,
  grammar drills;
programming: Rust compilers, code reviews, merge conflicts, unit tests, open source, race conditions, late night
  debugging, regular expressions;
electronics: soldering irons, oscilloscopes, breadboards, op amps, blown capacitors, circuit boards, tiny resistors,
  ham radio kits;
robotics: servo motors, line followers, lidar scans, gripper arms, stepper drivers, PID loops, autonomous rovers,
  quadruped gaits;
video games: boss fights, speedruns, pixel platformers, ranked ladders, open worlds, roguelikes, handheld consoles,
  side quests;
anime: Ghibli films, mecha series, shonen arcs, cosplay sewing, manga shelves, filler episodes, opening themes, slice
  of life;
woodworking: dovetail joints, hand planes, walnut boards, sawdust, chisels, a lathe, shellac finish, workbench vices;
cars: manual gearboxes, engine swaps, track days, oil changes, vintage roadsters, rally stages, drum brakes, a rusty
  Beetle;
motorcycles: twisty passes, leather jackets, two stroke engines, café racers, a sidecar, knee sliders, chrome
  exhausts, full face helmets;
trains: night sleepers, steam engines, narrow gauge lines, model layouts, signal boxes, platform snacks, rail passes,
  old timetables;
aviation: crosswind landings, glider launches, flight simulators, cockpit checklists, taildraggers, plane spotting,
  runway lights, short final;
dogs: rescue puppies, long leashes, agility courses, muddy paws, chewed slippers, recall practice, a stubborn beagle,
  border collies;
cats: purring laps, scratching posts, tabby kittens, window naps, feather wands, cardboard boxes, midnight zoomies,
  litter trays;
horses: dressage tests, stable chores, hay bales, trail rides, show jumping, a grey mare, saddle soap, foals in
  spring;
foraging: chanterelles, wild garlic, a wicker basket, elderflowers, spore prints, hedgerow berries, nettle soup, damp
  autumn woods;
meditation: silent retreats, sitting cushions, slow breathing, mindful mornings, body scans, temple bells, zen talks,
  stillness;
volunteering: food banks, beach cleanups, soup kitchens, charity shops, shelter shifts, fundraisers, reading buddies,
  neighbourhood visits;
"""


def _topics() -> dict[str, tuple[str, ...]]:
    entries = (entry.split(":") for entry in " ".join(_WORDS.split()).rstrip(";").split("; "))
    return {name: tuple(phrases.strip().split(", ")) for name, phrases in entries}


TOPICS: Final = _topics()
"""name of a topic -> its eight phrases"""

PROFILES_NAMED: Final[tuple[str, ...]] = (
    "I am here for {topic}, {phrase} and sometimes {other}.",
    "New in town, I am looking for people who share {topic} or {other}.",
    "Ask me about {topic}, {phrase}, or my other love, {other}.",
    "My weeks are mostly {topic} with a little {other} in between.",
    "Hello, I like {topic} a lot, {other} too, and talking about {phrase}.",
    "Quiet person, but get me started on {topic} or {phrase}.",
)
"""profiles that name a topic, and a second topic or a phrase of the first"""

PROFILES_HINTED: Final[tuple[str, ...]] = (
    "Usually you find me between {phrase} and {distant}.",
    "My happy place has {phrase}, and on weekdays I settle for {distant}.",
    "I moved here and miss {phrase}, but I found {distant}.",
    "Happiest with {phrase}, and I never say no to {distant}.",
    "I spend my money on {phrase} and my evenings on {distant}.",
    "Looking for friends who get why I love {phrase} and {distant}.",
)
"""profiles that name no topic: a phrase of one topic and a phrase of another"""

POSTS_NAMED: Final[tuple[str, ...]] = (
    "Another weekend of {topic} for me, mostly {phrase} this time.",
    "I never thought {topic} would have me talking about {phrase} at breakfast.",
    "Who else here is into {topic}? I need advice on {phrase}.",
    "Three years of {topic} and I am still learning about {phrase}.",
    "My friends are tired of {topic}, so I am telling you about {phrase}.",
    "Today I got back to {topic}, and {phrase} made my day.",
    "If you are new to {topic}, let me tell you about {phrase}.",
    "I could not sleep, too many thoughts of {topic} and {phrase}.",
)
"""posts that name their topic"""

POSTS_HINTED: Final[tuple[str, ...]] = (
    "Spent my whole Sunday on {phrase} and {second}, no regrets.",
    "I keep dreaming of {phrase}, and {second} too.",
    "Does anybody else care as much about {phrase} as I do?",
    "Finally I understand what people see in {phrase} and {second}.",
    "My week in short: {phrase}, {second}, repeat.",
    "I would trade a day off for {phrase} and some {second}.",
    "Today was all about {phrase}, and I am already planning for {second}.",
    "Nobody warned me how much I would enjoy {phrase} after {second}.",
)
"""posts that do not name their topic"""
