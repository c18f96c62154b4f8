"""The collector of traces. Only a process that sends traces imports what is here."""
