"""`agent webhook`: a mutating admission webhook that adds the sidecar to pods as the API server creates them."""
