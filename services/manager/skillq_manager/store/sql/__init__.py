"""The store on SQLite and PostgreSQL.

See docs/adr/0008-one-sql-layer-for-both-databases.md.
"""
