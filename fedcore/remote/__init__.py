"""What both ends of a run over real machines share, whatever carries their messages; `engines.remote` is the server's end."""
