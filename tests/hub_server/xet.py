"""Xet tokens, and a local store that the client's own Xet code writes and reads."""

import struct
import tempfile
import time
from pathlib import Path

from starlette.responses import JSONResponse

from .repositories import Refusal, find


RECORD = 48  # bytes of every record in a shard
BOOKEND = b"\xff" * 32


class XetStore:
    """A folder that hf_xet takes for its storage service, given as `local://folder`: no such service has to run."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="xet-store-")
        self.url = f"local://{self.folder.name}"

    def stored(self):
        """Path and time of writing of every block of content (a "xorb") in the store."""
        blocks = Path(self.folder.name).glob("**/xorbs/xorbs/default.*")
        return {str(path): path.stat().st_mtime_ns for path in blocks if path.suffix != ".tagset"}

    def hashes(self):
        """Xet's hash of each file by its SHA-256, from the shards that the client wrote.

        A shard is a header, then per file a record with its Xet hash, one for each of its segments (two where they carry a
        verification), and one with its SHA-256.
        """
        found = {}
        for shard in Path(self.folder.name).glob("**/shards/*.mdb"):
            data, at = shard.read_bytes(), RECORD
            while (key := data[at : at + 32]) != BOOKEND:
                flags, segments = struct.unpack("<II", data[at + 32 : at + 40])
                at += RECORD + RECORD * segments * (1 + (flags >> 31 & 1))
                if flags >> 30 & 1:
                    found[spelled(data[at : at + 32])] = spelled(key)
                    at += RECORD
        return found

    def read(self, sha256, size):
        """The content of a file; None where it is not in the store."""
        import hf_xet

        name = self.hashes().get(sha256)
        if name is None:
            return None
        target = Path(self.folder.name, sha256)
        token = {"token": "xet", "token_expiry_unix_secs": int(time.time()) + 3600}
        with hf_xet.XetSession().new_file_download_group(endpoint=self.url, **token) as group:
            group.start_download_file(hf_xet.XetFileInfo(name, size), str(target))
        data = target.read_bytes()
        target.unlink()
        return data

    def file_headers(self, refresh_route, sha256):
        """What tells a client that it may download a file from the store."""
        name = self.hashes().get(sha256)
        if name is None:
            return {}
        return {"X-Xet-Hash": name, "X-Xet-Refresh-Route": refresh_route, "Link": f'<{refresh_route}>; rel="xet-auth"'}


def spelled(digest):
    """How Xet writes 32 bytes in hexadecimal: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def xet_token(hub, request):
    find(hub, request, write=request.path_params["access"] == "write" and not request.query_params.get("create_pr"))
    if hub.xet is None:
        raise Refusal(404, "Xet is not enabled on this Hub; set HF_HUB_DISABLE_XET=1")
    expires = int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": hub.xet.url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
    return JSONResponse({"casUrl": hub.xet.url, "accessToken": "xet", "exp": expires}, headers=headers)
