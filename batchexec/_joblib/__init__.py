"""What the joblib backend is made of."""
