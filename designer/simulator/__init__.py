"""The gateway's own dispatcher over model engines in virtual time."""
