"""The ways to a server: HTTP and gRPC, each blocking and for asyncio. All I/O happens here."""
