"""The application: a proxy that is made of nothing but the library."""
