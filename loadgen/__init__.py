"""An open-loop load generator for any OpenAI-compatible server. Imports none of the other packages."""
