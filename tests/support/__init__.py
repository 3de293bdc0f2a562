"""Real loopback fakes and generators that tests share."""
