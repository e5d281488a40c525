"""Files as people have them: pictures of any depth, arrays, tables, masks; read rightly, or refused in one sentence."""
