"""The two requests of the floor and their answers."""

BODY = b"x" * 400
GET = b"GET /in HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=0-399\r\n\r\n"
PUT = b"PUT /out HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: *\r\nContent-Length: 400\r\n\r\n" + BODY
FOUND = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 400\r\n\r\n" + BODY
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
ANSWERS = {GET: FOUND, PUT: CREATED}
