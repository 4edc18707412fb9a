"""The plugin of pytest: it loads no more than pytest needs; the fixture does when a test asks for it."""
