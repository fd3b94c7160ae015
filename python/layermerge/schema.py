"""The tables of a study's SQLite file (no torch)."""

from __future__ import annotations

APPLICATION_ID = 0x4C4D5247  # "LMRG", in the header of the file
SCHEMA_VERSION = 1

SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}');
CREATE TABLE IF NOT EXISTS measurements (
    environment TEXT NOT NULL, subject TEXT NOT NULL,
    median_ns INTEGER NOT NULL, spread REAL NOT NULL, repeats INTEGER NOT NULL,
    seconds REAL NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (environment, subject)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (
    network TEXT NOT NULL, weights TEXT NOT NULL, candidate TEXT NOT NULL, estimator TEXT NOT NULL,
    score REAL, failure TEXT, seconds REAL NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (network, weights, candidate, estimator),
    CHECK ((score IS NULL) != (failure IS NULL))
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS artefacts (
    key TEXT PRIMARY KEY, content BLOB NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
COMMIT;
"""
