"""A proposer that asks language models: a Researcher writes, an Analyst measures, a Supervisor asks questions."""
