// Run pytest on CPython as WebAssembly: node run.mjs PYODIDE PROJECT PACKAGES [argument of pytest ...]
const [pyodide, project, packages, ...options] = process.argv.slice(2);
const { loadPyodide } = await import(`${pyodide}/pyodide.mjs`);
const python = await loadPyodide();
for (const [name, folder] of Object.entries({ project, packages })) {
  python.FS.mkdirTree(`/${name}`);
  python.mountNodeFS(`/${name}`, folder);
}
python.globals.set("options", python.toPy(options));
process.exitCode = python.runPython(`
import os, sys
sys.path[:0] = ["/packages", "/project/src", "/project"]
sys.dont_write_bytecode = True
os.chdir("/project")
import pytest
int(pytest.main([*options]))
`);
