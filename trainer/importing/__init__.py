"""Other people's data into events on the log: the shipped Online Retail set, and files in our own dialect."""
