"""The demonstration page: plain HTML, CSS and ES modules, served by the ranker at `/`. No build step, no outside host."""
