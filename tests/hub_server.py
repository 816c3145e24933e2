"""A small server that speaks the hub's API as `huggingface_hub` calls it: repositories in memory.

It has accounts with tokens, private repositories, regular and LFS files, commits that are whole or nothing,
and revisions. It keeps what it was asked for, and can be told to refuse or to break off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKENS = {"hf_ann": ("ann", "write"), "hf_reader": ("ann", "read"), "hf_bob": ("bob", "write")}
LFS_FROM = 20_000  # bytes; the hub decides by size and kind


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((each for each in self.commits if each.oid == revision), None)


@dataclass
class Hub:
    """What the server holds. `refuse` maps a word of a route to the status that it answers."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    cut: int | None = None  # bytes after which a download breaks off

    def files(self, repo: str) -> dict[str, bytes]:
        return self.repos[repo].commits[-1].files


def oid_of(*parts: Any) -> str:
    return hashlib.sha1(repr(parts).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None: ...

    # -- answers ---------------------------------------------------------------------------------------------

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut is not None and "resolve" in self.path + headers.get("X_From", ""):
            self.wfile.write(data[: self.hub.cut])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(data)

    def no(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def user(self) -> tuple[str, str] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return TOKENS.get(token)

    def repo(self, name: str) -> Repo | None:
        """The repository, if it is there and this user may see it; else it has been answered."""
        found, user = self.hub.repos.get(name), self.user()
        if found is None or (found.private and (user is None or user[0] != name.split("/")[0])):
            self.no(401 if user is None else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def may_write(self, name: str) -> bool:
        user = self.user()
        if user is None:
            self.no(401, "", "Invalid username or password.")
        elif user != (name.split("/")[0], "write"):
            self.no(403, "", "You don't have the rights to write there")
        else:
            return True
        return False

    # -- routes ----------------------------------------------------------------------------------------------

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.body()
        for word, status in self.hub.refuse.items():
            if word in path:
                return self.no(status, "", "It was told to refuse")
        if self.headers.get("Authorization") and self.user() is None:
            return self.no(401, "", "Invalid credentials in Authorization header")
        for method, pattern, function in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (found := re.fullmatch(pattern, path)):
                return function(self, body, *found.groups())
        return self.answer(404, {"error": f"no route {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = route

    def whoami(self, body: bytes) -> None:
        user = self.user()
        self.answer(200, {"name": user[0], "type": "user"}) if user else self.no(401, "", "Who are you?")

    def create(self, body: bytes) -> None:
        asked, user = json.loads(body), self.user()
        if user is None:
            return self.no(401, "", "Invalid username or password.")
        name = f"{asked.get('organization') or user[0]}/{asked['name']}"
        if not self.may_write(name):
            return None
        if name in self.hub.repos:
            return self.no(409, "", "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        first = Commit(
            oid_of(name, "first"), "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"}
        )
        self.hub.repos[name] = Repo(private, [first])
        return self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def delete(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or (self.user() or ('',))[0]}/{asked['name']}"
        if self.may_write(name):
            del self.hub.repos[name]
            self.answer(200, {})

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        if (repo := self.repo(name)) is None:
            return None
        commit = repo.at(revision or "main")
        if commit is None:
            return self.no(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": each} for each in commit.files]
        facts = {
            "id": name,
            "modelId": name,
            "private": repo.private,
            "sha": commit.oid,
            "siblings": siblings,
        }
        return self.answer(200, {"_id": "0", "tags": [], "downloads": 0, "likes": 0, **facts})

    def validate_yaml(self, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if self.repo(name) is None or not self.may_write(name):
            return
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] >= LFS_FROM else "regular",
                "shouldIgnore": False,
            }
            for each in json.loads(body)["files"]
        ]
        self.answer(200, {"files": modes})

    def lfs_batch(self, body: bytes, name: str) -> None:
        if self.may_write(name):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.no(400, "", "The bytes are not those of this name")
        self.hub.blobs[oid] = body
        return self.answer(200)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if (repo := self.repo(name)) is None or not self.may_write(name):
            return None
        files, message = dict(repo.commits[-1].files), ""
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.no(400, "", "An LFS object is missing")
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        repo.commits.append(Commit(oid_of(name, len(repo.commits), files), message, files))
        oid = repo.commits[-1].oid
        return self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        if (repo := self.repo(name)) is None:
            return None
        commit = repo.at(revision)
        if commit is None:
            return self.no(404, "RevisionNotFound", "Invalid rev id")
        if file not in commit.files:
            message = "Entry not found"
            return self.answer(
                404, {}, X_Error_Code="EntryNotFound", X_Error_Message=message, X_Repo_Commit=commit.oid
            )
        content = commit.files[file]
        if len(content) < LFS_FROM:
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, ETag=etag, X_Repo_Commit=commit.oid)
        oid = hashlib.sha256(content).hexdigest()
        return self.answer(
            302,
            b"",
            Location=f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{oid}",  # another host
            X_Linked_Etag=f'"{oid}"',
            X_Linked_Size=str(len(content)),
            X_Repo_Commit=commit.oid,
        )

    def cdn(self, body: bytes, oid: str) -> None:
        self.answer(200, self.hub.blobs[oid], ETag=f'"{oid}"', X_From="resolve")


NAME = r"([^/]+/[^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("DELETE", "/api/repos/delete", Handler.delete),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", f"/api/models/{NAME}/preupload/(.+)", Handler.preupload),
    ("POST", f"/api/models/{NAME}/commit/(.+)", Handler.commit),
    ("GET", f"/api/models/{NAME}/revision/(.+)", Handler.info),
    ("GET", f"/api/models/{NAME}", Handler.info),
    ("POST", f"/{NAME}.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Handler.lfs_put),
    ("GET", "/cdn/([0-9a-f]{64})", Handler.cdn),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The server, on a free port of localhost."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
