"""The launcher behind `ops/run`: Valkey, the sandbox and the Procfile as one program."""
