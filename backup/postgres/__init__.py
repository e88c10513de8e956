"""Where the tables live: connections, the catalog, snapshots, client programs, servers of our own."""
