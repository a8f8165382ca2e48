"""The papers' tables and their second stage, on one's own data."""
