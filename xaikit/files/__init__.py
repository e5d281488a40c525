"""Files as people have them: pictures of any depth, arrays, tables, masks. What is read is right, or refused in one sentence."""
