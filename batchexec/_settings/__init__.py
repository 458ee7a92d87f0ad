"""The rooms behind `batchexec.config`: standard library and `batchexec.errors` only, none imports the face."""
