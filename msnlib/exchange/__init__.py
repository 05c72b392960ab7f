"""Exchange: how networks come in (conversion), are kept (storage) and leave (export, compaction)."""
