"""From query vectors to the people nearest to them."""
