"""The image's health check: whether the daemon beside it answers.

``KV_HEALTH_URL`` says where (by default a proxy's address), and ``KV_TOKEN_FILE`` names the tokens that it asks for.
Ends with 0 if it answers that it lives, and otherwise with 1 and a sentence.
"""

import os
import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8080/health/live"
TIMEOUT_S = 3.0


def main() -> str | None:
    request = urllib.request.Request(os.environ.get("KV_HEALTH_URL", URL))
    file = os.environ.get("KV_TOKEN_FILE")
    try:
        if file:
            with open(file, encoding="ascii") as stream:
                lines = [line.split() for line in stream if line.strip() and not line.startswith("#")]
            request.add_header("Authorization", f"Bearer {lines[0][1]}")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"{request.full_url} answered with {error.code}"
    except (OSError, ValueError, IndexError) as error:
        return f"{request.full_url} cannot be asked: {error}"


if __name__ == "__main__":
    sys.exit(main())
