"""Readers of users' files: pictures of any depth, arrays, tables, masks; a wrong file is refused in one sentence."""
