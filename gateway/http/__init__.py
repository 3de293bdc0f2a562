"""The data plane: asyncio protocols on both sides, llhttp parsing, bytes spliced."""
