"""How the tiny models were trained."""
