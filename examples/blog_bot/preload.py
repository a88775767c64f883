"What the server that forks the three processes imports once for all of them"
from . import drafting,front,model_service,switchboard
