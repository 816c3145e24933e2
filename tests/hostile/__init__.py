"""Damaged and hostile files by the thousand: what reads them ends well, or in one sentence."""
