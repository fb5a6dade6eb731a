"""What the tests of the clients in other languages share: stubs, builds, drivers, servers and the table of cases."""
