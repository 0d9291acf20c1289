"""OpenAI's completions API over HTTP: a worker that writes the texts of all requests in batches."""
