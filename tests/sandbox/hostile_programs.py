"""Programs that want to pass without solving anything, to hang, to stay, or to break the machinery.

They are asked for f(a, b) = a + sum(b). Those in NEEDS_OWN_USER would harm an evaluator of the same user.
"""

WRONG = "def f(a, b): return -1\n"

HOSTILE = {
    "exit while importing": "import sys; sys.exit(0)",
    "os._exit while importing": "import os; os._exit(0)",
    "quit": "quit()",
    "os._exit when called": "import os\ndef f(a, b): os._exit(0)",
    "SystemExit when called": "def f(a, b): raise SystemExit(0)",
    "KeyboardInterrupt when called": "def f(a, b): raise KeyboardInterrupt",
    "abort": "import os\ndef f(a, b): os.abort()",
    "always-equal object": """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def f(a, b): return Equal()
""",
    "always-equal int": """
class Equal(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(a, b): return Equal(7)
""",
    "always-equal class": """
class Meta(type):
    def __eq__(self, other): return True
    __hash__ = type.__hash__
class f(metaclass=Meta):
    def __new__(cls, a, b): return cls
""",
    "object that lies about its class": """
class Liar:
    __class__ = int
    def __eq__(self, other): return True
    def __reduce__(self): return (int, (3,))
def f(a, b): return Liar()
""",
    "patched builtins": WRONG
    + """
import builtins
builtins.AssertionError = type("Harmless", (Exception,), {"__new__": lambda *a: None})
for name in ("all", "any", "abs", "print", "id", "hash"):
    setattr(builtins, name, lambda *a, **k: True)
""",
    "patched built-ins that the server uses": WRONG
    + """
import builtins
for name in ("len", "type", "list", "compile", "exec", "callable"):
    setattr(builtins, name, lambda *a, **k: True)
""",
    "built-ins that the tests use": "def set(x): return 0\ndef sum(x): return 0\ndef f(a, b): return set",
    "patched encoder": WRONG
    + """
import sys
wire = sys.modules["isolated.wire"]
genuine = wire.encode
wire.encode = lambda value, *rest: genuine(("passed", "", {}), 1 << 20)
""",
    "printed markers": WRONG
    + """
import sys
for word in ("passed", "OK", "PASSED", "1 passed in 0.01s", "\\x04"):
    print(word, flush=True); print(word, file=sys.stderr, flush=True)
""",
    "verdict written to every descriptor": WRONG
    + """
import os, sys
wire, channel = sys.modules["isolated.wire"], sys.modules["isolated.channel"]
message = channel.frame(wire.encode(("passed", "", {}), 1 << 20))
for fd in range(64):
    for _ in range(3):
        try: os.write(fd, message)
        except OSError: pass
""",
    "rubbish in the reply pipe": WRONG
    + """
import os
for fd in range(3, 64):
    try: os.write(fd, b"\\xff" * 5000)
    except OSError: pass
""",
    "half a reply, then silence": """
import os, time
for fd in range(3, 64):
    try: os.write(fd, b"\\x00\\x00")
    except OSError: pass
time.sleep(1000)
""",
    "closed descriptors": "import os\nos.closerange(0, 64)\n" + WRONG,
    "closed descriptors, then sleep": "import os, time\nos.closerange(0, 64)\ntime.sleep(1000)",
    "swallows every exception": """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "ignores every signal": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
    "endless when called": "def f(a, b):\n    while True: pass",
    "endless in C": "def f(a, b): return 9 ** 9 ** 9 ** 9",
    "sleeps": "import time\ntime.sleep(1000)",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "memory at once": "def f(a, b): return bytearray(1 << 40)",
    "forks": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "threads": """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(1000,)).start()
""",
    "daemon that keeps the pipe": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
"""
    + WRONG,
    "atexit": WRONG + "import atexit\natexit.register(lambda: [None for _ in iter(int, 1)])",
    "floods output": "import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)",
    "floods the reply pipe": """
import os
for fd in range(3, 64):
    try:
        while True: os.write(fd, b"\\x00" * 65536)
    except OSError: pass
""",
    "recursion": "def f(a, b): return f(a, b)",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(a, b): return f(a, b)",
    "recursion in C": """
import sys
sys.setrecursionlimit(10 ** 9)
def f(a, b):
    x = []
    for _ in range(10 ** 6): x = [x]
    return repr(x)
""",
    "huge integer": "def f(a, b): return 1 << (1 << 31)",
    "large integer": "def f(a, b): return 1 << (1 << 20)",
    "huge string": "def f(a, b): return 'x' * (1 << 26)",
    "result that contains itself": "def f(a, b):\n    x = []\n    x.append(x)\n    return x",
    "result that doubles at every level": """
def f(a, b):
    x = []
    for _ in range(100): x = [x, x]
    return x
""",
    "colliding keys": """
import sys
wire = sys.modules["isolated.wire"]
genuine = wire.encode
reply = genuine(("value", [i * (2 ** 61 - 1) for i in range(1, 60_000)]), 1 << 20).replace(b"l\\0", b"S\\0", 1)
def f(a, b):
    wire.encode = lambda *a: reply
""",
    "endless generator": "def f(a, b):\n    while True: yield 3",
    "message that cannot be shown": """
class E(Exception):
    def __str__(self): raise self
def f(a, b): raise E
""",
    "message with control characters": "def f(a, b): raise ValueError('\\x1b[2J\\r\\ud800passed')",
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + WRONG,
    "stops its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\n" + WRONG,
    "kills all": "import os, signal\nos.kill(-1, signal.SIGKILL)\n" + WRONG,
    "writes its parent's memory": "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b').close()\n",
    "takes its parent's descriptors": """
import os
for fd in range(64):
    os.write(os.open(f"/proc/{os.getppid()}/fd/{fd}", os.O_WRONLY), b"x")
""",
    "searches its frames": """
import gc, sys
def values():
    frame = sys._getframe()
    while frame:
        yield from frame.f_locals.values()
        yield from frame.f_globals.values()
        frame = frame.f_back
    yield from gc.get_objects()
tests = [v for v in values() if isinstance(v, str) and "assert" in v and "f(2, [1])" in v and v != __doc__]
def f(a, b): return 3 if tests else -1
""",
    "raises its limits": """
import resource
for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    try: resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError): pass
while True: pass
""",
    "survives its parent": """
import ctypes, os, signal
libc = ctypes.CDLL(None)
libc.prctl(1, 0, 0, 0, 0)
libc.prctl(4, 0, 0, 0, 0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU): signal.signal(number, signal.SIG_IGN)
while True: os.sched_yield()
""",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "becomes another program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'sleep 1000'])",
    "starts a shell": "import os\nos.system('sleep 1000 & exit 0')\n" + WRONG,
    "large file": """
with open("large", "wb") as file:
    for _ in range(1000): file.write(bytes(1 << 20)); file.flush()
""",
    "directory that resists": """
import os
home = os.environ["HOME"]
for depth in range(300):
    os.mkdir("d" * 100); os.chdir("d" * 100)
os.chdir(home)
os.mkdir("closed"); open("closed/file", "w").close(); os.chmod("closed", 0)
os.symlink("/", "root"); os.mkfifo("pipe")
os.chmod(home, 0)
"""
    + WRONG,
    "removes its directory": "import os\nos.rmdir(os.environ['HOME'])\n" + WRONG,
    "stops with its judge as its tracer": """
import ctypes, os, signal
ctypes.CDLL(None).ptrace(0, 0, 0, 0)
os.closerange(0, 64)
os.kill(os.getpid(), signal.SIGSTOP)
""",
    "many directories": "import os\nfor n in range(2000): os.mkdir(str(n))\n" + WRONG,
    "puts a link in the place of its directory": """
import os
home = os.environ["HOME"]
os.rename(home, home + "-moved")
os.symlink(os.getcwd(), home)
"""
    + WRONG,
    "null byte": "\0",
    "deep source": "(" * 100_000,
    "surrogate": "x = '\ud800'",
    "no code": "",
}

NEEDS_OWN_USER = {"kills all"}
