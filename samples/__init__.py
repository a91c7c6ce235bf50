"""Photographs and synthetic rain over them: what builds are verified and networks trained with."""
