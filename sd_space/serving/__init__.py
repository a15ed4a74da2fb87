"""Serving: what a Space needs around its page and its engine, without either."""
