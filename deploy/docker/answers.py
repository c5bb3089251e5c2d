"""Health check over HTTP: exit code 0 if the URL answers with success within 4 s.   usage: answers.py URL"""

import sys
import urllib.error
import urllib.request

LIMIT_S = 4.0

if __name__ == "__main__":
    try:
        urllib.request.urlopen(sys.argv[1], timeout=LIMIT_S).close()
    except (urllib.error.URLError, TimeoutError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
