"""What lies on disk: the Zarr store, its schema, plan, writer, reader, statistics and proof."""
