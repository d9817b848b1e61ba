"""Rules to rows: steps, recipes, lists, previews."""
