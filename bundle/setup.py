"Take module and version from the package beside this folder; a source distribution has a copy of the module"
import re
from pathlib import Path
from shutil import copyfile

from setuptools import setup

module = Path('collab_ext_bundle.py')
package = Path('../collab_ext')
if (package/'bundle.py').exists(): copyfile(package/'bundle.py', module)
version_file = package/'__init__.py' if (package/'__init__.py').exists() else Path('PKG-INFO')
version = re.search(r'^(?:__version__ = "|Version: )([\w.]+)', version_file.read_text(encoding='utf-8'), re.MULTILINE)[1]

setup(version=version)
