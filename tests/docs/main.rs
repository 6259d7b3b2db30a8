//! Tier `docs`: man pages, schemas and the README against the code.
