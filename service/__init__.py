"""What runs at request time: the API, the ranker, the artifact it runs, the weight store and the page. No torch."""
