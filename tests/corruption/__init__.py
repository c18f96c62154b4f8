"""The corruption test of the audit: a sound sale, one wrong value after the other, and what the audit says."""
