"""No file can bring code: the source calls nothing that unpickles, evaluates or starts a program, but for a few places.

What files do bring at run time is tried by tests/fuzz, where a reader that starts a program, connects, or writes
outside its folder is a fault.
"""

import ast

from source_code import imports, modules, parse

MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "runpy",
    "code",
    "yaml",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.posix_spawn", "os.spawnv"),
    *("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"),
    *("torch.save", "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load", "torch.export.load"),
    *("importlib.import_module", "pd.read_pickle", "pandas.read_pickle"),
    *("dist.broadcast_object_list", "dist.all_gather_object", "dist.gather_object", "dist.scatter_object_list"),
}
_TEAM = "pickles between the processes of one training, which trust each other (SECURITY.md)"
# By module and call: why it may.
EXCEPTIONS = {
    ("alexnet", "importlib.import_module"): "loads the modules of the public names, from a constant",
    ("alexnet.experiments", "importlib.import_module"): "loads an experiment, from a constant",
    ("alexnet.distributed.team", "dist.broadcast_object_list"): _TEAM,
    ("alexnet.distributed.team", "dist.all_gather_object"): _TEAM,
    ("alexnet.distributed.watchdog", "dist.broadcast_object_list"): _TEAM,
}


def _forbidden(module: str, tree: ast.Module) -> list[str]:
    """Return what a module does that may run code from a file."""
    names = dict(imports(tree))
    forbidden = [name for name in names.values() if name.partition(".")[0] in MODULES]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        full = names.get(function, function)  # from os import system
        is_builtin = function in BUILTINS and function not in names
        without_code = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
        rule = without_code.get(full, "")
        if is_builtin or ({function, full} & CALLS and (module, function) not in EXCEPTIONS):
            forbidden.append(f"{function}()")
        elif rule and options.get(rule.partition("=")[0]) != rule.partition("=")[2]:
            forbidden.append(f"{function}() without {rule}")
        if options.get("allow_pickle", "False") != "False" or "trust_remote_code" in options:
            forbidden.append(f"{function}({options})")
    return forbidden


def test_the_source_runs_nothing_that_is_in_a_file() -> None:
    forbidden = {module: _forbidden(module, parse(path)) for module, path in modules().items()}
    assert {module: calls for module, calls in forbidden.items() if calls} == {}


def test_each_exception_is_still_there() -> None:
    for module, function in EXCEPTIONS:
        calls = [node for node in ast.walk(parse(modules()[module])) if isinstance(node, ast.Call)]
        assert function in {ast.unparse(node.func) for node in calls}, (module, function)


def test_what_is_forbidden_is_recognised() -> None:
    for line in (
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "np.savez(file, allow_pickle=True)",
        "os.system(text)",
        "from subprocess import run\nrun(text)",
        "datasets.load_dataset(name, trust_remote_code=True)",
    ):
        assert _forbidden("alexnet.new", ast.parse(line)), line
    for line in ("import pickletools", "torch.load(file, weights_only=True)", "net.eval()", "torch.compile(net)"):
        assert not _forbidden("alexnet.new", ast.parse(line)), line
