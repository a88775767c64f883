"What the server that forks the three processes imports once for all of them"
from importlib import import_module

for o in ('drafting','front','model_service','switchboard'): import_module(f'.{o}', __package__)
