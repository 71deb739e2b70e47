"""Where people and schedulers meet Runspend: commands, pages, the demo, the first try."""
