"""The demonstration page: plain HTML, CSS and ES modules, which the ranker serves at `/`. No build, no other host."""
