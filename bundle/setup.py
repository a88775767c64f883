"Take modules and version from the package beside this folder; a source distribution has a copy of the modules"
import re
from pathlib import Path
from shutil import copyfile

from setuptools import setup

name = 'collab_ext_bundle'
modules = 'bundle features content_prior catalogue versions recommend_command serve serve_command'.split()
target,package = Path(name),Path('../collab_ext')
if (package/'bundle.py').exists():
    target.mkdir(exist_ok=True)
    for o in modules:
        text = (package/f'{o}.py').read_text(encoding='utf-8')
        text = re.sub(r'pip install collab_ext\[(?=serve|text|content)', f'pip install {name}[', text) # the extras of this distribution
        (target/f'{o}.py').write_text(text.replace('from collab_ext.', f'from {name}.'), encoding='utf-8')
    (target/'__init__.py').write_text('"Serve recommendations from a folder of safe files"\nfrom .bundle import *\n', encoding='utf-8')
    copyfile(package/'page.html', target/'page.html')
version_file = package/'__init__.py' if (package/'__init__.py').exists() else Path('PKG-INFO')
version = re.search(r'^(?:__version__ = "|Version: )([\w.]+)', version_file.read_text(encoding='utf-8'), re.MULTILINE)[1]

setup(version=version, packages=[name], package_data={name:['*.html']})
