"""A registry with token authorization that cuts every connection after some bytes of a blob. It has made-up images:

app   an index for linux/amd64 and linux/arm64; three layers, the same for both but for the configuration
big   one image of one layer that is larger than a small disk
slow  one image whose layer stops in the middle until the file "go" exists

usage: registry.py PORT FOLDER ARCHITECTURE. Each request for a blob is noted in FOLDER/log as "DIGEST FIRST-BYTE".
"""

import base64, hashlib, io, json, os, re, sys, tarfile, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, FOLDER, HOST_ARCH = int(sys.argv[1]), sys.argv[2], sys.argv[3]
CUT = 256 << 10
OTHER_ARCH = "arm64" if HOST_ARCH != "arm64" else "amd64"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
blobs, manifests, slow = {}, {}, set()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(data):
    blobs[digest(data)] = data
    return digest(data)


def layer(*files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, mode in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def describe(kind, data):
    return {"mediaType": kind, "digest": put(data), "size": len(data)}


def image(repository, arch, layers, tag=None):
    config = json.dumps({
        "architecture": arch, "os": "linux", "config": {"Cmd": ["/bin/busybox", "sleep", "100000"], "Labels": {"test": "1"}},
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
    }).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", data) for data in layers],
    }).encode()
    for name in filter(None, [tag, digest(manifest)]):
        manifests[repository, name] = (MANIFEST, manifest)
    return {"mediaType": MANIFEST, "digest": digest(manifest), "size": len(manifest), "platform": {"os": "linux", "architecture": arch}}


busybox = layer(("bin/busybox", open("/bin/busybox", "rb").read(), 0o755))
app = [busybox, layer(("noise", os.urandom(700 << 10), 0o644)), layer(("noise2", os.urandom(300 << 10), 0o644))]
entries = [image("app", OTHER_ARCH, app), image("app", HOST_ARCH, app)]
index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
manifests["app", "1"] = manifests["app", digest(index)] = (INDEX, index)
image("big", HOST_ARCH, [layer(("noise", os.urandom(48 << 20), 0o644))], "1")
waiting = layer(("noise", os.urandom(200 << 10), 0o644))
slow.add(digest(waiting))
image("slow", HOST_ARCH, [busybox, waiting], "1")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, kind, data, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status, code, message, headers=()):
        self.answer(status, "application/json", json.dumps({"errors": [{"code": code, "message": message}]}).encode(), headers)

    def do_GET(self):
        if self.path.startswith("/token"):
            asked = self.headers.get("Authorization", "")
            if asked != "Basic " + base64.b64encode(b"alice:wonder").decode():
                return self.refuse(401, "UNAUTHORIZED", "incorrect username or password")
            scope = re.search(r"scope=repository%3A(\w+)%3Apull", self.path)
            return self.answer(200, "application/json", json.dumps({"token": "for-" + (scope.group(1) if scope else "login")}).encode())
        found = re.fullmatch(r"/v2/(?:(\w+)/(manifests|blobs)/([\w:.-]+))?", self.path)
        if not found:
            return self.refuse(404, "NAME_UNKNOWN", "repository name not known to registry")
        repository, what, name = found.groups()
        if self.headers.get("Authorization") != f"Bearer for-{repository or 'login'}":
            realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="test"'
            return self.refuse(401, "UNAUTHORIZED", "authentication required", [("WWW-Authenticate", realm)])
        if what is None:
            return self.answer(200, "application/json", b"{}")
        if what == "manifests":
            if (repository, name) not in manifests:
                return self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            kind, data = manifests[repository, name]
            return self.answer(200, kind, data, [("Docker-Content-Digest", digest(data))])
        self.blob(name)

    def blob(self, name):
        if name not in blobs:
            return self.refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
        data = blobs[name]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked.group(1)) if asked else 0
        with open(FOLDER + "/log", "a") as log:
            log.write(f"{name} {first}\n")
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        cut = len(data) if len(data) > 40 << 20 else first + CUT
        self.wfile.write(data[first:min(cut, len(data) // 2) if name in slow else cut])
        if name in slow:
            self.wfile.flush()
            while not os.path.exists(FOLDER + "/go"):
                time.sleep(0.02)
            self.wfile.write(data[len(data) // 2:])
        self.close_connection = True


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
