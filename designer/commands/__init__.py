"""One file for each command of ``designer``; ``designer.cli`` registers them."""
