"""What can be seen from outside: scraped metrics, exported metrics, the event log."""
