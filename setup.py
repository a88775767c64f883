"Package metadata from settings.ini; see also pyproject.toml"
from configparser import ConfigParser
from setuptools import setup

parser = ConfigParser()
parser.read('settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
suffix = '_requirements'
extras = {k.removesuffix(suffix): cfg[k].split() for k in cfg if k.endswith(suffix)}

setup(author=cfg['author'], license_expression=cfg['license'], keywords=cfg['keywords'].split(), packages=['collab_ext'], package_data={'collab_ext':['*.html']},
    classifiers=cfg['classifiers'].strip().splitlines(), python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=['collab_ext=collab_ext._modidx:d']))
